"""From text to AST, and back: the parser, the AST and the formatter."""
