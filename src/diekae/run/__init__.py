"""The one path from prompts to figures: lay out, prepare, inject, score, answer. What is measured is what serves."""
