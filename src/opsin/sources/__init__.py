"""Data sources: where images, labels and captions come from, and the readers of each layout."""
