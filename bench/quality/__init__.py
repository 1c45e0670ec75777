"""Image quality: from images, drawn by the server or by anything else, to scores and a report."""
