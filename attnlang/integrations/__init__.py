"""Where attnlang meets other tools; each module is loaded by its tool alone."""
