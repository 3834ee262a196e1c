{{/* The template of the pods. */}}
{{- define "segment-loops.pod" -}}
{{- $files := include "segment-loops.files" . -}}
metadata:
  labels:
    {{- include "segment-loops.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/files: {{ $files | sha256sum }}
    checksum/secret: {{ .Values.secret.values | toJson | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "segment-loops.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # More than server.shutdown_grace_ms and the wait before it.
  terminationGracePeriodSeconds: 40
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.store.engine "postgres" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "segment-loops.selector" . | nindent 10 }}
  {{- end }}
  {{- if .Values.store.sqlite.litestream.image }}
  initContainers:
    # It goes on beside the service, and ends after it.
    - name: litestream
      image: {{ .Values.store.sqlite.litestream.image | quote }}
      restartPolicy: Always
      args: [replicate, -config, /etc/segment-loops/litestream.yml]
      {{- with .Values.store.sqlite.litestream.secret }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: files, mountPath: /etc/segment-loops, readOnly: true}
        - {name: data, mountPath: /data}
  {{- end }}
  containers:
    - name: segment-loops
      image: "{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        {{- if .Values.config }}
        - --config=/etc/segment-loops/config.toml
        {{- end }}
        {{- if .Values.subscriptions }}
        - --subscriptions=/etc/segment-loops/subscriptions.toml
        {{- end }}
      env:
        - {name: SEGMENT_LOOPS__SERVER__LISTEN, value: "0.0.0.0:8080"}
        - {name: SEGMENT_LOOPS__SERVER__ADMIN_LISTEN, value: "0.0.0.0:8081"}
        {{- if .Values.store.sqlite.litestream.image }}
        - {name: SEGMENT_LOOPS__STORE__WAL, value: external}
        {{- end }}
        {{- with .Values.trustedProxies }}
        - {name: SEGMENT_LOOPS__SERVER__TRUSTED_PROXIES, value: {{ join "," . | quote }}}
        {{- end }}
        {{- range $key := include "segment-loops.secretKeys" . | fromJsonArray }}
        - {name: {{ $key }}_FILE, value: /run/secrets/segment-loops/{{ $key }}}
        {{- end }}
        {{- range $name, $value := .Values.env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 8081}
      # At the port for operators: a flood at the other one must not end the process.
      startupProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 2
        # A large database is checked and upgraded first.
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /healthz, port: admin}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 5
        timeoutSeconds: 5
      {{- if eq .Values.store.engine "postgres" }}
      # Until traffic is no longer routed here.
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: secret, mountPath: /run/secrets/segment-loops, readOnly: true}
        {{- if $files }}
        - {name: files, mountPath: /etc/segment-loops, readOnly: true}
        {{- end }}
        {{- if eq .Values.store.engine "sqlite" }}
        - {name: data, mountPath: /data}
        {{- end }}
  volumes:
    - name: secret
      secret:
        secretName: {{ include "segment-loops.secret" . }}
        defaultMode: 0440
    {{- if $files }}
    - name: files
      configMap:
        name: {{ include "segment-loops.name" . }}
    {{- end }}
{{- end }}
