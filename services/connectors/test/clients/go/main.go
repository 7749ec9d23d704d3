// Prints the id of each event of the feed: go run . <url> <subject>
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	"github.com/nats-io/nats.go"
)

func main() {
	client, err := nats.Connect(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	_, err = client.Subscribe(os.Args[2], func(message *nats.Msg) {
		var event struct{ Id, Kind string }
		if err := json.Unmarshal(message.Data, &event); err != nil {
			log.Fatal(err)
		}
		fmt.Println(event.Id, event.Kind, message.Header.Get("Tidegate-Event-Id"))
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := client.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	select {}
}
