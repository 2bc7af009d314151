"""Text encoders of the embedded model, trained against typos and attacked through all they read."""
