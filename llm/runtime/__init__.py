"""This process and this machine: signals, ranks, hardware, files that are whole or not there, trusted code."""
