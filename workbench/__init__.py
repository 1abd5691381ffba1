"""Parts shared by the programs: experiments, data, command lines and tables."""
