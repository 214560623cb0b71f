"""Evaluating the frozen features of any encoder: nearest neighbors, linear probes, and figures of features."""
