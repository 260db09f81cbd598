"""Writing sessions: state, commands, screen and terminal."""
