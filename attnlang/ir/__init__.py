"""The intermediate representation: what a spec means."""
