"""Other ways to one step, each one flat file: `python -m baselines.progressive`."""
