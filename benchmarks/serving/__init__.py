"""The service beside the same network in other servers, and what both kinds of long measurement need."""
