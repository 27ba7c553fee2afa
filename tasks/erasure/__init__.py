"""One user out of everything that was kept: days, datasets, views, pages, this machine; and days that are too old."""
