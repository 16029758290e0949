"""What the compiler understood of a variant: as text, as one page of HTML, as a picture."""
