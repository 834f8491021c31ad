"""What the demo trains on and asks about: a recipe, a hand-written document and three questions."""
