package mail

import (
	"bytes"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"
)

func TestComposeIsReadBack(t *testing.T) {
	from := &mail.Address{Name: "Höney Due", Address: "bee@hive.example"}
	to := &mail.Address{Address: "keeper@hive.example"}
	subject := "digest\r\nBcc: everybody@hive.example"
	body := "Überfällig: 2.\n" + strings.Repeat("long ", 40)
	date := time.Date(2026, 4, 13, 8, 0, 0, 0, time.UTC)

	message, err := mail.ReadMessage(bytes.NewReader(compose(from, to, subject, body, date)))
	if err != nil {
		t.Fatal(err)
	}
	if message.Header.Get("Bcc") != "" {
		t.Error("the subject made a header")
	}
	decoded, err := new(mime.WordDecoder).DecodeHeader(message.Header.Get("Subject"))
	if err != nil || decoded != subject {
		t.Errorf("subject %q, %v", decoded, err)
	}
	senders, err := message.Header.AddressList("From")
	if err != nil || len(senders) != 1 || *senders[0] != *from {
		t.Errorf("from %v, %v", senders, err)
	}
	if sent, err := message.Header.Date(); err != nil || !sent.Equal(date) {
		t.Errorf("date %v, %v", sent, err)
	}
	text, err := io.ReadAll(quotedprintable.NewReader(message.Body))
	if err != nil || strings.ReplaceAll(string(text), "\r\n", "\n") != body+"\n" {
		t.Errorf("body %q, %v", text, err)
	}
}
