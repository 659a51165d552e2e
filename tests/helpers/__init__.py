"""What tests of several rooms share: small worlds, small models, small runs."""
