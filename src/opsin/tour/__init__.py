"""The guided run: every system trained for a moment on the embedded data, and one illustrated report of it all."""
