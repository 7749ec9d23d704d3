// Prints events from the stream EVENTS, with the published schema alone.
//
//	protoc --go_out=. --go_opt=module=example.com/consume \
//	  --go_opt=Mtidegate/v1/events.proto=example.com/consume/tidegate -I ../../../packages/contracts/proto tidegate/v1/events.proto
//	go run . nats://127.0.0.1:7422
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"time"

	"example.com/consume/tidegate"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
)

func main() {
	url := "nats://127.0.0.1:7422"
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	connection, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		log.Fatal(err)
	}
	// The last 15 minutes of programs started and ended, then what follows.
	since := time.Now().Add(-15 * time.Minute)
	consumer, err := js.CreateConsumer(ctx, "EVENTS", jetstream.ConsumerConfig{
		FilterSubjects:    []string{"tidegate.events.exec.>", "tidegate.events.exit.>"},
		DeliverPolicy:     jetstream.DeliverByStartTimePolicy,
		OptStartTime:      &since,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		log.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		<-ctx.Done()
		messages.Stop()
	}()
	for {
		message, err := messages.Next()
		if err != nil {
			return
		}
		batch := &tidegate.EventBatch{}
		if err := proto.Unmarshal(message.Data(), batch); err != nil {
			log.Printf("%s: %v", message.Subject(), err)
			continue
		}
		printBatch(batch)
	}
}

// One message holds one or more events; processes, containers and pods stand in its tables once.
func printBatch(batch *tidegate.EventBatch) {
	processes := map[uint32]*tidegate.Process{}
	for _, process := range batch.Processes {
		processes[process.Id] = process
	}
	containers := map[uint32]*tidegate.Container{}
	for _, container := range batch.Containers {
		containers[container.Id] = container
	}
	pods := map[string]*tidegate.Pod{}
	for _, pod := range batch.Pods {
		pods[pod.Uid] = pod
	}
	for _, event := range batch.Events {
		process := processes[event.Process]
		if process == nil {
			continue
		}
		place := batch.Node
		if pod := pods[containers[process.Container].GetPodUid()]; pod != nil {
			place = pod.Namespace + "/" + pod.Name
		}
		at := time.Unix(0, batch.WallOffsetNs+int64(event.KtimeNs)).UTC().Format("15:04:05.000")
		switch detail := event.Detail.(type) {
		case *tidegate.Event_Exec:
			parent := processes[process.Parent]
			fmt.Printf("%s exec %s %s → %q (pid %d)\n", at, place, parent.GetBinary(), strings.Join(process.Arguments, " "), process.Pid)
		case *tidegate.Event_Exit:
			fmt.Printf("%s exit %s %s code %d signal %d\n", at, place, process.Binary, detail.Exit.Code, detail.Exit.Signal)
		}
	}
}
