"""What several views or tiles found, made one."""
