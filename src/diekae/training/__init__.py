"""Training: objectives, the cache of what the decoder makes of each example, and one trainer on the Hugging Face Trainer."""
