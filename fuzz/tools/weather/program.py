arguments['city']
