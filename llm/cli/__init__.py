"""The command line of `train.py`: LightningCLI, its settings, its help, its errors."""
