"""Polyphonic music: piano rolls from .mat files, MIDI out."""
