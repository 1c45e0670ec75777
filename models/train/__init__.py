"""Training of the bundled model: scenes of things, and the networks that learn to draw them."""
