"""Models under the course's path."""
