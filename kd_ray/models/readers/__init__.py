"""Reading the outputs of each family of networks: what it gives is seen from the network itself."""
