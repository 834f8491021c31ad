"""Data sets: their cards, building and downloading them."""
