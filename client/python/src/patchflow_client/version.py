"""The package's version, also sent to the server."""

VERSION = "0.1.0"
