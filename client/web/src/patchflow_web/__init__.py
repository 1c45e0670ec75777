"""A page for Patchflow, and OpenAI's images endpoint in front of it."""
