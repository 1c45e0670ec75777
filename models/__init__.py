"""The bundled model: its weights, the scripts that made it and the script that judges it."""
