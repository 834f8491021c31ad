"""Readers of kinds of files, one module a family; :mod:`diekae.store.readers` knows which suffix is read by which."""
