"""One module a verb: docstring = help, FLAGS, run(arguments) -> exit code."""
