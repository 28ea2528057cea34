package store

import "context"

// Found is what a text was found in.
type Found struct {
	// Predictions, Deliveries to clients and Events that were accepted are newest
	// first. They have what lists have.
	Predictions []Prediction
	Deliveries  []DeliveryRow
	Events      []DeliveryRow
	// Clients are those whose identity begins with the text or whose name contains
	// it, and Endpoints those that contain it, as EndpointOf returns them. They are
	// those of the predictions that are stored.
	Clients, Endpoints []string
	// More reports that there is more than the limit, or that only the newest
	// rows were looked through.
	More bool
}

// Finder finds what operators look for. It is not on the path of a request.
type Finder interface {
	// Find returns what a text names, up to limit of each kind: a prediction,
	// delivery or event by its ID or the beginning of it, or predictions and
	// their deliveries by their client or a part of their URL.
	//
	// IDs that are whole, the beginnings of those of deliveries and events, and
	// the beginnings of the names of clients and endpoints are found by an index,
	// however many rows there are. What else the text is a part of is found among
	// as many clients, endpoints and newest rows as are read in some milliseconds:
	// More is set where others are left. In URLs and names, letters match in both
	// cases.
	Find(ctx context.Context, text string, limit int) (Found, error)
}
