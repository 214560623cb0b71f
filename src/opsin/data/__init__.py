"""Data sources, image loading, preprocessing and augmentation: the same for every system."""
