"""Files and folders of ours: written whole or not at all, locked, and replaced only where they are ours."""
