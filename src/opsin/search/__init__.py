"""Embedding collections of images, and searching them with words and images."""
