"""Training of banks: the objectives, a cache of the decoder's part in them, and one trainer on the Hugging Face one."""
