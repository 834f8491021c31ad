"""Training: objectives, the cache of differences, and one trainer on the Hugging Face Trainer."""
