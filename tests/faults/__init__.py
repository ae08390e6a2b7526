"""What breaks from outside: kills, full disks, damaged files. Each module is a script, of which the suite runs a small draw."""
