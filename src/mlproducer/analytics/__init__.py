"""What was accepted, delivered, worked and spent, by hour: counted, stored, asked for."""
