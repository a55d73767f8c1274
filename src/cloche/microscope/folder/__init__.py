"""A run folder as the microscope reads it: bounded, contained and live."""
