"""Scripts that run at SageMaker, in its scikit-learn image: they import nothing from here."""
