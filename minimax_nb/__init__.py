"""MiniMax-Text-01 on Hugging Face Transformers: converted, checked, and taught."""
