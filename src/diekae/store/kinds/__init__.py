"""Readers of files, one module for each family of kinds; :mod:`diekae.store.readers` lists them by suffix."""
