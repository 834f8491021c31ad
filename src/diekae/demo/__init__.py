"""The data of `diekae demo`: a recipe, made-up examples to train on, and a document to ask."""
