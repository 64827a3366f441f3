"""Packs: trials that train together in one program."""
