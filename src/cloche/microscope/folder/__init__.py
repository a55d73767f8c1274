"""Reading a run folder for the microscope: with size limits, only inside the run, and while it is being written."""
