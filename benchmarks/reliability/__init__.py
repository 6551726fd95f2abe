"""Whether a service survives what it is sent, clients that leave, and its own sudden end; from outside."""
