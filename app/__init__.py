"""The REST service: photographs in, photographs without rain out."""
