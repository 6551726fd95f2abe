"""The same network behind other servers, each as its own documentation has it; every module is a program."""
