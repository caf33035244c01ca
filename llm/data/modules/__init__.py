"""One LightningDataModule for each kind of data."""
