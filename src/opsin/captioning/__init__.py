"""Image captioning with a transformer decoder: train it on images with captions, let it describe others."""
